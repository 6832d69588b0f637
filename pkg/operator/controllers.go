package operator

import (
	corev1 "k8s.io/api/core/v1"
)

// AgentsConfig is what the pods of agents are made with.
type AgentsConfig struct {
	// Image of the agents' containers: the operator's own.
	Image string
	// NATSURL is where agents reach the queue.
	NATSURL string
	// EnvFrom names Secrets that every agent's environment gets, in its own namespace and where they exist.
	EnvFrom []string
	// Env is added to every agent's environment; the agent's own entries win.
	Env []corev1.EnvVar
}
