"""What families share: layers, a model's definition, sharding rules, frozen parameters, FLOPs."""
