package testenv

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// EndBelow kills the processes that work below a directory, which is the
// test's own: agents of a daemon under test outlive it.
func EndBelow(t testing.TB, dir string) {
	t.Helper()
	works := func(pid int) bool {
		cwd, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
		return err == nil && strings.HasPrefix(cwd, dir+"/")
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !works(pid) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if works(pid) { // still the one the descriptor means
			if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
				t.Errorf("end process %d: %v", pid, err)
			}
		}
		unix.Close(fd)
	}
}
