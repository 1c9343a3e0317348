package main

import (
	"encoding/binary"
	"fmt"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf"

	"l3af/internal/testenv"
)

// BenchmarkMapDump dumps a hash map of 300,000 entries as JSON with l3af and
// with bpftool, each in a process of its own.
func BenchmarkMapDump(b *testing.B) {
	testenv.Root(b)
	const n = 300_000
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "many", Type: ebpf.Hash, KeySize: 8, ValueSize: 16, MaxEntries: n})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	keys, values := make([][8]byte, n), make([][16]byte, n)
	for i := range keys {
		binary.NativeEndian.PutUint64(keys[i][:], uint64(i))
		binary.NativeEndian.PutUint64(values[i][:], uint64(i)*1000)
	}
	if _, err := m.BatchUpdate(keys, values, nil); err != nil {
		b.Fatal(err)
	}
	info, err := m.Info()
	if err != nil {
		b.Fatal(err)
	}
	id, _ := info.ID()
	for _, tool := range []string{"l3af", "bpftool"} {
		exe, err := exec.LookPath(tool)
		if err != nil {
			b.Logf("no %s: %v", tool, err)
			continue
		}
		b.Run(tool, func(b *testing.B) {
			for b.Loop() {
				if err := exec.Command(exe, "-j", "map", "dump", "id", fmt.Sprint(id)).Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
