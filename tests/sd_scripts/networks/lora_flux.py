"""Stands for networks/lora_flux.py: what its `create_network` asks its keyword arguments for."""


def create_network(multiplier, network_dim, network_alpha, vae, text_encoder, unet, neuron_dropout=None, **kwargs):
    return (
        kwargs.get("conv_alpha"),
        kwargs.get("conv_dim"),
        kwargs.get("ggpo_beta"),
        kwargs.get("ggpo_sigma"),
        kwargs.get("img_attn_dim"),
        kwargs.get("img_mlp_dim"),
        kwargs.get("img_mod_dim"),
        kwargs.get("in_dims"),
        kwargs.get("loraplus_lr_ratio"),
        kwargs.get("loraplus_text_encoder_lr_ratio"),
        kwargs.get("loraplus_unet_lr_ratio"),
        kwargs.get("module_dropout"),
        kwargs.get("network_reg_dims"),
        kwargs.get("network_reg_lrs"),
        kwargs.get("rank_dropout"),
        kwargs.get("single_dim"),
        kwargs.get("single_mod_dim"),
        kwargs.get("split_qkv"),
        kwargs.get("train_blocks"),
        kwargs.get("train_double_block_indices"),
        kwargs.get("train_single_block_indices"),
        kwargs.get("train_t5xxl"),
        kwargs.get("txt_attn_dim"),
        kwargs.get("txt_mlp_dim"),
        kwargs.get("txt_mod_dim"),
        kwargs.get("verbose"),
    )
