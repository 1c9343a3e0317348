// Command l3afd keeps the eBPF programs of a node as its state says.
package main

import (
	"os"

	"l3af/internal/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:])) }
