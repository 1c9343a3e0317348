package chain

import (
	"testing"

	"l3af"
	"l3af/internal/testenv"
)

// Every test program, alone in a chain and as a pair, passes the verifier.
func TestEveryProgramLoads(t *testing.T) {
	testenv.Clean(t)
	for _, kind := range l3af.HookKinds() {
		spec := object(t, objectOf(kind))
		for entry := range spec.Programs {
			if entry == "tailer" || entry == "devmap" || entry == "absolute" || entry == "configured" {
				continue
			}
			t.Run(string(kind)+"/"+entry, func(t *testing.T) {
				set(t, spec, "verdicts", [8]int32{2, 2, 2, 2, 0, 0, 1, 1})
				load(t, compose(t, kind, Member{Name: "a", Spec: spec, Entry: entry}))
				load(t, compose(t, kind,
					Member{Name: "a", Spec: spec, Entry: entry},
					Member{Name: "b", Spec: withoutBTFUnlessCORE(spec.Copy(), entry), Entry: entry}))
			})
		}
	}
}
