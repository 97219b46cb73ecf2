"""The main job on one machine in two minutes, with a leader and a worker killed on the way."""
