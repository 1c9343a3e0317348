package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"l3af/internal/bpfsys"
	"l3af/internal/testenv"
)

// Events are printed by their type, and as bpftool prints them.
func TestMapEvents(t *testing.T) {
	testenv.Clean(t)
	coll, err := ebpf.LoadCollection("../../internal/events/testdata/events.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	id := func(name string) string {
		var info bpfsys.MapInfo
		if err := bpfsys.Info(coll.Maps[name], &info); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(info.ID)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if _, err := coll.Programs["tell"].Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: 2}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()

	for name, want := range map[string]string{"perf": `"way":"WAY_PERF","comm":"tell"`, "ring": `"way":"WAY_RING","comm":"tell"`} {
		args := []string{"map", "event_pipe", "id", id(name), "type", "event", "--count", "3"}
		lines := strings.Split(strings.TrimSpace(string(l3afSays(t, append(args, "-o", "json")...))), "\n")
		for _, l := range lines {
			if !json.Valid([]byte(l)) || !strings.Contains(l, want) {
				t.Errorf("%s: %s, want %s in it", name, l, want)
			}
		}
		if len(lines) != 3 {
			t.Errorf("%s: %d lines", name, len(lines))
		}
		text := string(l3afSays(t, args...))
		if strings.Count(text, want) != 3 || name == "perf" && strings.Count(text, " index: ") != 3 {
			t.Errorf("%s: %s", name, text)
		}
	}
	var out, errs bytes.Buffer
	if code := run([]string{"map", "event_pipe", "id", id("perf"), "type", "evnt"}, nil, &out, &errs); code != exitFailed || !strings.Contains(errs.String(), "no type evnt") {
		t.Errorf("a type that is not there: %d, %s", code, errs.String())
	}

	cmd := exec.Command(testenv.Tool(t, "bpftool"), "-j", "map", "event_pipe", "id", id("perf"))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1) // it has seen enough events to fill its buffer
	if _, err := io.ReadFull(stdout, first); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Signal(os.Interrupt)
	rest, err := io.ReadAll(stdout)
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	theirs := append(first, rest...)
	shape := func(what string, document []byte) string {
		var list []map[string]any
		if err := json.Unmarshal(document, &list); err != nil || len(list) == 0 {
			t.Fatalf("%s: %v: %s", what, err, document)
		}
		return fmt.Sprint(list[0]["data"].([]any)[8:], list[0]["type"], keys(t, mustJSON(t, list[0])))
	}
	ours := l3afSays(t, "map", "event_pipe", "id", id("perf"), "--count", "2", "-j")
	if o, b := shape("l3af", ours), shape("bpftool", theirs); o != b {
		t.Errorf("event: got %s, want %s", o, b)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
