"""Getting models: names, sources, the store on disk, loading, memory arithmetic and placement."""
