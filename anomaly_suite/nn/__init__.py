"""Building blocks of the methods: backbones, encoders, decoders, filters. torch (and timm) only, no Lightning."""
