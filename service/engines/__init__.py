"""What runs the networks: one small protocol, exchangeable behind one gate."""
