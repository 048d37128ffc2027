"""Traditional models and cheap modern ones, on the same posts and with the same scores as vision-language models."""
