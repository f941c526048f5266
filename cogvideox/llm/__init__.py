"""Clients for language and vision-language models: OpenAI-compatible endpoints and local models by path.

    ChatRequest --Client--> cached? --budget, rate limit--> ChatModel (endpoint, llama.cpp, transformers) --> Answer

Every response is stored in a SQLite file (`cache`) before the next call starts, so that no paid call is lost or
repeated. `client` is the entry point, `models` lists the kinds of models.
"""
