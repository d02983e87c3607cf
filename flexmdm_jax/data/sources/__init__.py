"""Where text comes from: files and tables, read document by document."""
