package node

import (
	"context"

	"l3af"
)

// For the tests that see the real kernel.
var (
	NewFake     = newFake
	HookOf      = hookOf
	RandomState = randomState
	AnyFailed   = anyFailed
)

// Reconcile does what Run does at its start.
func Reconcile(n *Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	settle(n)
}

// settle reconciles, and waits for agents.
func settle(n *Node) []l3af.Step {
	steps := n.reconcile(context.Background(), true)
	for len(n.pending) > 0 {
		if n.awaitAgents() {
			panic("the node is closed")
		}
		steps = append(steps, n.reconcile(context.Background(), false)...)
	}
	return steps
}
