"""The service under load over HTTP, beside a thread pool around diffusers on the same weights."""
