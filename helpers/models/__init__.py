"""How a model family encodes, predicts and renders; sees nothing of data, caches or training."""
