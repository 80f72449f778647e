"""Mixed requests, some of them rude, at a service that is restarted meanwhile: what leaks, what is lost?"""
