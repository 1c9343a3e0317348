package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"l3af"
	"l3af/internal/artifact"
)

// Spec is an agent as it is wanted.
type Spec struct {
	// Key tells one agent from another: where its program runs, and what the
	// program is called.
	Key    string
	Agent  l3af.Agent
	Digest string // of the package its files are from
	// Open gives that package.
	Open func() (*artifact.Package, error)
	// Maps tells the maps of the program that it finds when it starts from
	// others; "": nobody knows. It is no part of what the agent is.
	Maps string
}

// id tells apart what must be started anew from what may run on.
func (s *Spec) id() string {
	a := s.Agent
	a.Stop, a.Status, a.Update = nil, nil, nil
	return hash(a, s.Digest)
}

// updated tells one update from another.
func (s *Spec) updated() string {
	if len(s.Agent.Update) == 0 {
		return ""
	}
	return hash(s.Agent.Update)
}

func (s *Spec) same(o *Spec) bool {
	return o != nil && s.Digest == o.Digest && reflect.DeepEqual(s.Agent, o.Agent)
}

func hash(of ...any) string {
	text, err := json.Marshal(of)
	if err != nil {
		panic(err) // it is made of text and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// record is what is on disk of an agent that was started: all that a daemon
// needs to go on with it.
type record struct {
	Key     string     `json:"key"`
	Boot    string     `json:"boot"` // nothing below is true of another boot
	Agent   l3af.Agent `json:"agent"`
	Digest  string     `json:"digest"`
	ID      string     `json:"id"`
	Up      bool       `json:"up"`              // Start and Update have done what they are for
	PID     int        `json:"pid,omitempty"`   // of Start
	Start   uint64     `json:"start,omitempty"` // when that process began, in clock ticks since boot
	Cgroup  string     `json:"cgroup,omitempty"`
	Updated string     `json:"updated,omitempty"`
	Maps    string     `json:"maps,omitempty"` // of [Spec], when it was started
	Starts  int        `json:"starts"`         // again, of a daemon that ended
}

func (r *record) spec() *Spec { return &Spec{Key: r.Key, Agent: r.Agent, Digest: r.Digest} }

func (r *record) cgroup() *cgroup {
	if r.Cgroup == "" {
		return nil
	}
	return &cgroup{r.Cgroup}
}

const recordName = "run.json"

// write replaces the record in a directory. It is for a daemon that comes
// after this one, not for a machine that does: nothing is synced.
func (r *record) write(dir string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, recordName)
	if err := os.WriteFile(name+".tmp", append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

// readRecord gives the record in a directory; nil if there is none of this boot.
func readRecord(dir, boot string) (*record, error) {
	text, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", recordName, err)
	}
	if r.Boot != boot {
		return nil, nil
	}
	if r.Key == "" || directory(r.Key) != filepath.Base(dir) || r.ID == "" {
		return nil, fmt.Errorf("%s is damaged: it is of %q", recordName, r.Key)
	}
	return r, nil
}

// directory is the name of an agent's directory: the key, where it can be one
// part of a path.
func directory(key string) string {
	name := strings.ReplaceAll(url.PathEscape(key), ".", "%2E")
	if len(name) > 200 {
		name = name[:180] + "-" + hash(key)
	}
	return name
}

func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}
