"""Parts of `InfiniteIDPipeline`: what goes in, what comes out, and where weights come from."""
