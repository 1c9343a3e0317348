package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"l3af"
	"l3af/client"
	"l3af/internal/api/apitest"
)

// Any number of packets goes through, in order, few of them at a time.
func TestStream(t *testing.T) {
	h := l3af.Hook{Interface: "eth0", Kind: l3af.XDP}
	node := &apitest.Node{Report: l3af.Status{Chains: []l3af.ChainStatus{{Interface: "eth0", Hook: l3af.XDP, ID: "3f2a9c41d0"}}}}
	c, _ := serve(t, node)
	packets := func(n uint64, last error) func(func([]byte, error) bool) {
		return func(yield func([]byte, error) bool) {
			for i := range n {
				if !yield(binary.BigEndian.AppendUint64(make([]byte, 1000), i), nil) {
					return
				}
			}
			if last != nil {
				yield(nil, last)
			}
		}
	}
	told := uint64(0)
	each := func(p l3af.PacketRun) error {
		if binary.BigEndian.Uint64(p.Data[1000:]) != told {
			t.Errorf("packet %d is told as %x", told, p.Data[1000:])
		}
		told++
		return nil
	}
	const many = 30000 // more than 16 MiB
	ran, err := c.RunChain(t.Context(), h, &l3af.RunRequest{Stream: packets(many, nil), Each: each, LiveMaps: true, State: state("eth0")})
	if err != nil || told != many || len(ran.Notes) != 2 || ran.ID != "3f2a9c41d0" {
		t.Errorf("%d packets are told, %+v, %v", told, ran, err)
	}

	broken := errors.New("broken")
	told = 0
	if _, err := c.RunChain(t.Context(), h, &l3af.RunRequest{Stream: packets(500, broken), Each: each}); !errors.Is(err, broken) {
		t.Errorf("packets end with an error: %v", err)
	}
	_, err = c.RunChain(t.Context(), h, &l3af.RunRequest{Stream: packets(many, nil), Each: func(l3af.PacketRun) error { return broken }})
	if !errors.Is(err, broken) {
		t.Errorf("nobody takes what is told: %v", err)
	}
	given := 0
	_, err = c.RunChain(t.Context(), l3af.Hook{Interface: "eth1", Kind: l3af.XDP}, &l3af.RunRequest{
		Stream: func(yield func([]byte, error) bool) { given++ }, Each: each,
	})
	if !errors.Is(err, l3af.ErrNotFound) || given != 0 {
		t.Errorf("no chain: %v, asked %d times for packets", err, given)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = c.RunChain(ctx, h, &l3af.RunRequest{Stream: packets(many, nil), Each: func(l3af.PacketRun) error {
		cancel()
		return nil
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// A packet that is too long is refused by the daemon, behind those before it.
	told = 0
	_, err = c.RunChain(t.Context(), h, &l3af.RunRequest{Each: each, Stream: func(yield func([]byte, error) bool) {
		for p := range packets(300, nil) {
			yield(p, nil)
		}
		if yield(make([]byte, 1<<20), nil) {
			yield(make([]byte, 1<<20), nil)
		}
	}})
	if refused := (*client.Error)(nil); !errors.As(err, &refused) || refused.Code != "invalid" || told != 300 {
		t.Errorf("a long packet: %v, %d are told", err, told)
	}
}
