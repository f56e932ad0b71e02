"""Stands for networks/lora.py: what its `create_network` asks its keyword arguments for."""


def create_network(multiplier, network_dim, network_alpha, vae, text_encoder, unet, neuron_dropout=None, **kwargs):
    return (
        kwargs.get("block_alphas"),
        kwargs.get("block_dims"),
        kwargs.get("block_lr_zero_threshold"),
        kwargs.get("conv_alpha"),
        kwargs.get("conv_block_alphas"),
        kwargs.get("conv_block_dims"),
        kwargs.get("conv_dim"),
        kwargs.get("down_lr_weight"),
        kwargs.get("loraplus_lr_ratio"),
        kwargs.get("loraplus_text_encoder_lr_ratio"),
        kwargs.get("loraplus_unet_lr_ratio"),
        kwargs.get("mid_lr_weight"),
        kwargs.get("module_dropout"),
        kwargs.get("rank_dropout"),
        kwargs.get("up_lr_weight"),
    )
