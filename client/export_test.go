package client

import "context"

// Unreachable is the error of a client whose dial failed with err.
func Unreachable(socket string, err error) error {
	return (&Client{Socket: socket}).unreachable(context.Background(), err)
}

// Again is how long Follow waits before it looks for the next daemon.
const Again = again
