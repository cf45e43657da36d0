"""The one door to libp2p: the host, its streams, and what stands guard over them."""
