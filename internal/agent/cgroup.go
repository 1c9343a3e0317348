package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cgroup is the directory of a control group (v2) that an agent has for
// itself: whatever it makes is in it. A nil one is none, on hosts without.
type cgroup struct{ dir string }

// cgroupRoot finds the control group of this process in the hierarchy of
// version 2, "" where there is none that can be written to.
func cgroupRoot() string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	return findCgroup(string(mounts), string(own))
}

// findCgroup joins what /proc/self/mountinfo and /proc/self/cgroup say.
func findCgroup(mounts, own string) string {
	path := ""
	for line := range strings.Lines(own) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = p
		}
	}
	if !strings.HasPrefix(path, "/") || strings.Contains(path, "..") {
		return "" // outside of the namespace
	}
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) == 0 || kind[0] != "cgroup2" {
			continue
		}
		below, ok := strings.CutPrefix(path, strings.TrimSuffix(fields[3], "/"))
		if !ok {
			continue
		}
		return filepath.Join(strings.ReplaceAll(fields[4], `\040`, " "), below)
	}
	return ""
}

// make makes the control group where it is not there.
func (c *cgroup) make() error {
	if c == nil {
		return nil
	}
	var err error
	for range 100 {
		// Others may be removing the parent, which is empty for them.
		if err = os.MkdirAll(c.dir, 0o755); !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	return nil
}

func (c *cgroup) open() (*os.File, error) { return os.Open(c.dir) }

// kill ends everything in it at once. Linux has cgroup.kill since 5.14; the
// process group was told before. It must be removed then: Linux 6.18 also kills
// what is made in it from outside later (it compares the kill_seq of two groups,
// cgroup_css_set_fork in kernel/cgroup/cgroup.c).
func (c *cgroup) kill() {
	if c == nil {
		return
	}
	_ = os.WriteFile(filepath.Join(c.dir, "cgroup.kill"), []byte("1"), 0)
}

// populated reports whether anything runs in it.
func (c *cgroup) populated() bool {
	if c == nil {
		return false
	}
	events, err := os.ReadFile(filepath.Join(c.dir, "cgroup.events"))
	return err == nil && bytes.Contains(events, []byte("populated 1"))
}

// remove removes it and its parent, when nothing else is in that.
func (c *cgroup) remove() error {
	if c == nil {
		return nil
	}
	for range 100 {
		c.kill()
		err := os.Remove(c.dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(filepath.Dir(c.dir)) // fails while others are in it
			return nil
		}
		time.Sleep(10 * time.Millisecond) // what was killed takes a moment to go
	}
	return fmt.Errorf("cgroup %s: processes in it do not end", c.dir)
}

// used tells what is in it has used: CPU time, and the bytes of memory it has
// now. 0 where the kernel does not account for it.
func (c *cgroup) used() (cpu time.Duration, memory int64) {
	if c == nil {
		return 0, 0
	}
	if text, err := os.ReadFile(filepath.Join(c.dir, "cpu.stat")); err == nil {
		for line := range strings.Lines(string(text)) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), "usage_usec "); ok {
				usec, _ := strconv.ParseInt(n, 10, 64)
				cpu = time.Duration(usec) * time.Microsecond
			}
		}
	}
	if text, err := os.ReadFile(filepath.Join(c.dir, "memory.current")); err == nil {
		memory, _ = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	return cpu, memory
}
