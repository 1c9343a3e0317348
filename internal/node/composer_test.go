package node

import (
	"testing"
	"time"

	"l3af"
	"l3af/internal/chain"
)

// Chains that are composed once more together are the same one for the composer:
// one of them takes what it has kept, and its place goes back once.
func TestComposedAgainTogether(t *testing.T) {
	object := testObject(t, "tiny.bpf.o")
	compose := func(c *composer) *composed {
		t.Helper()
		p := l3af.Program{Name: "a", Package: object, Entry: "tiny"}
		pkg, one, wrong := c.program(l3af.XDP, p, "")
		if len(wrong) > 0 {
			t.Fatal(wrong)
		}
		made, err := c.chain(l3af.XDP, []bound{{p, pkg.Digest, one.Member}})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	open := (&Node{opts: Options{Open: openCached}}).opener(t.Context())
	for range 20 {
		released := [2]*composed{}
		for i := range released {
			released[i] = compose(newComposer(open))
			released[i].release()
		}
		c := newComposer(open)
		again := compose(c)
		there := make(chan bool)
		done := make(chan *chain.Chain)
		for _, one := range released {
			go func() {
				full, err := one.full(func() (*composed, error) {
					select { // both are there
					case there <- true:
					case <-there:
					case <-time.After(20 * time.Second):
						t.Error("it is alone")
					}
					return again, nil
				})
				if err != nil {
					t.Error(err)
				}
				done <- full
			}()
		}
		if a, b := <-done, <-done; a == nil || b == nil || a.ID != b.ID {
			t.Fatalf("%v, %v", a, b)
		}
		held := 0
		for _, one := range released {
			if one.whole != nil {
				held++
			}
		}
		if len(c.room) != held || again.whole != nil {
			t.Fatalf("%d places are taken, of %d chains that are kept", len(c.room), held)
		}
	}
}
