package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"l3af/internal/testenv"
)

// The first command of the README runs from the sources, where no l3afd is installed.
func TestDemoOfSources(t *testing.T) {
	testenv.Root(t)
	testenv.Clean(t)
	cmd := exec.Command("go", "run", "-buildvcs=false", ".", "demo", "--time", "3s")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "lost by the change") {
		t.Errorf("%v\n%s", err, out)
	}
}
