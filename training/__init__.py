"""How the shipped model, Postcard, is made and judged: renderer, autoencoder, text encoder, UNet, judge."""
