package node

import "context"

// For the tests that see the real kernel.
var (
	NewFake = newFake
	HookOf  = hookOf
)

// Reconcile does what Run does at its start.
func Reconcile(n *Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reconcile(context.Background(), true)
}
