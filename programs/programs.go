// Package programs holds the eBPF programs that l3af ships, each in a folder
// of its own with its C source, the object made of it, and the package.yaml
// that describes it: acl, ratelimit and stats. `builtin:NAME` in a state
// document names one of them.
package programs

import "embed"

// FS holds NAME/package.yaml and NAME/NAME.bpf.o of every program.
//
//go:embed */package.yaml */*.bpf.o
var FS embed.FS
