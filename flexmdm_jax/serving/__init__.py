"""A trained model behind HTTP: the form of requests and answers, one queue, one device thread."""
