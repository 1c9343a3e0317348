package trace

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// Where tracefs is not mounted it is there for the one who looks, and nobody else.
func TestIn(t *testing.T) {
	testenv.Root(t)
	for _, dir := range places {
		for unix.Unmount(dir, unix.MNT_DETACH) == nil {
		}
	}
	reason := errors.New("reason")
	err := In(func(dir string) error {
		if _, err := os.Stat(filepath.Join(dir, "events", "syscalls")); err != nil {
			t.Error(err)
		}
		return reason
	})
	if err != reason {
		t.Errorf("got %v, want what the function returned", err)
	}
	if _, err := os.Stat("/sys/kernel/tracing/events"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("tracefs is mounted for all: %v", err)
	}
	pipe, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		for b := make([]byte, 4096); ; {
			if _, err := pipe.Read(b); err != nil {
				read <- err
				return
			}
		}
	}()
	if err := pipe.Close(); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Errorf("a read ended with %v", err)
	}
}
