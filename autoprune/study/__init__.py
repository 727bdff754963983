"""The stored study: what was asked, what came back, and what to ask next. The only doors to Optuna."""
