"""What encoders made of pictures and captions, kept on the disk under digests of all that went in."""
