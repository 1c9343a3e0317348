package main

import (
	"encoding/binary"
	"fmt"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af/internal/testenv"
)

// BenchmarkMapDump dumps a hash map of 300,000 entries as JSON with l3af and
// with bpftool, each in a process of its own, without types and with them.
func BenchmarkMapDump(b *testing.B) {
	testenv.Root(b)
	u64 := &btf.Int{Name: "u64", Size: 8}
	for name, types := range map[string][2]btf.Type{
		"plain": {},
		"typed": {u64, &btf.Struct{Name: "value", Size: 16, Members: []btf.Member{{Name: "packets", Type: u64}, {Name: "bytes", Type: u64, Offset: 64}}}},
	} {
		b.Run(name, func(b *testing.B) { benchmarkMapDump(b, types[0], types[1]) })
	}
}

func benchmarkMapDump(b *testing.B, key, value btf.Type) {
	const n = 300_000
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "many", Type: ebpf.Hash, KeySize: 8, ValueSize: 16, MaxEntries: n, Key: key, Value: value})
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
