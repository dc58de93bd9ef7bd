"""The commands of `parsim`, a file a group; each is registered on `app` when its file is imported."""
