package artifact

import (
	"strings"
	"testing"
)

// A manifest says which programs are written for L3AF.
func TestManifestChain(t *testing.T) {
	const head = "apiVersion: l3af/v1\nname: p\nprograms:\n- {entry: e, object: o, "
	for fields, want := range map[string]string{
		"hook: xdp":                                     "/",
		"hook: xdp, chain: l3af":                        "l3af/",
		"hook: xdp, map_name: next":                     "l3af/next",
		"hook: xdp, chain: l3af, map_name: next":        "l3af/next",
		"hook: xdp, chain: l3fa":                        `programs[0].chain: nobody knows programs written for "l3fa"`,
		"hook: xdp, map_name: [next]":                   "programs[0].map_name: want text",
		"attach: raw_tracepoint/sys_exit, chain: l3af":  "programs[0].chain: a probe is not chained",
		"attach: raw_tracepoint/sys_exit, map_name: ma": "programs[0].map_name: a probe is not chained",
	} {
		m, err := ParseManifest([]byte(head + fields + "}\n"))
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = m.Programs[0].Chain + "/" + m.Programs[0].MapName
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%s: got %s, want %s", fields, got, want)
		}
	}
}
