package daemon

import (
	"os"
	"strings"
	"testing"
)

// What is no handover, or one that this daemon does not know, keeps it from
// starting before it touches a descriptor. Nobody it starts sees it.
func TestPredecessor(t *testing.T) {
	if p, err := findPredecessor(); p != nil || err != nil {
		t.Errorf("found %+v, %v", p, err)
	}
	for text, want := range map[string]string{
		"":                              "unexpected end",
		"3":                             "cannot unmarshal number",
		`{"files":["tcp:127.0.0.1:1"]}`: "by protocol 0, this one knows 1",
		`{"protocol":2}`:                "by protocol 2, this one knows 1",
	} {
		t.Setenv(handoverEnv, text)
		if p, err := findPredecessor(); p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %+v, %v, want %q", text, p, err, want)
		}
		if _, left := os.LookupEnv(handoverEnv); left {
			t.Errorf("%s is left", text)
		}
	}
}
