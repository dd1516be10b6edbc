"""How a Pyro ELBO becomes one graph: ``tripwire`` refuses what a graph would freeze, ``tracing``
makes the graph, ``watching`` sees when it no longer holds, ``steps`` picks the graph that does."""
