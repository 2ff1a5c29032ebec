"""RLlib trains one iteration of PPO; its environment runners are on all nodes."""

import ray
from ray.rllib.algorithms.ppo import PPOConfig

ray.init()
cpus = int(min(node["Resources"].get("CPU", 0) for node in ray.nodes()))
config = (
    PPOConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=3, num_cpus_per_env_runner=cpus // 2 + 1, rollout_fragment_length="auto")
    .training(train_batch_size_per_learner=240, minibatch_size=60, num_epochs=1)
)
algorithm = config.build_algo()
hosts = algorithm.env_runner_group.foreach_env_runner(
    lambda runner: __import__("socket").gethostname(), local_env_runner=False
)
result = algorithm.train()
assert result["training_iteration"] == 1, result
algorithm.stop()
print("LIBRARY rllib", ray.__version__, "NODES", len(set(hosts)))
