package artifact

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// fetchedName is the file of a store that tells where packages came from. It
// only saves downloads: without it, or with a damaged one, all are fetched again.
const fetchedName = "fetched.json"

// validators are what a server said about a file, to ask it later whether it
// has changed.
type validators struct {
	ETag     string    `json:"etag,omitempty"`
	Modified string    `json:"modified,omitempty"` // as the server writes it
	Digest   string    `json:"digest"`             // of the package
	Time     time.Time `json:"time"`
}

// fetched tells what is known of a reference, and gives the package that it
// was then; nil if the store does not have it.
func (s *Store) fetched(ref string) (validators, *Package) {
	if s == nil {
		return validators{}, nil
	}
	s.mu.Lock()
	v, ok := s.record()[ref]
	s.mu.Unlock()
	if !ok {
		return validators{}, nil
	}
	p, err := s.Get(v.Digest)
	if err != nil {
		return validators{}, nil
	}
	return v, p
}

// remember keeps what a server said of what it gave.
func (s *Store) remember(ref string, v validators, digest string) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.record()
	v.Digest, v.Time = digest, time.Now().UTC().Truncate(time.Second)
	all[ref] = v
	return s.writeRecord(all)
}

// forget drops what is known of packages other than those kept.
func (s *Store) forget(kept []string) error {
	all := s.record()
	before := len(all)
	maps.DeleteFunc(all, func(_ string, v validators) bool { return !slices.Contains(kept, v.Digest) })
	if len(all) == before {
		return nil
	}
	return s.writeRecord(all)
}

func (s *Store) writeRecord(all map[string]validators) error {
	text, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	aside := filepath.Join(temp, fetchedName)
	if err := writeSync(aside, append(text, '\n'), 0o600); err != nil {
		return err
	}
	if err := os.Rename(aside, filepath.Join(s.dir, fetchedName)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func (s *Store) record() map[string]validators {
	all := map[string]validators{}
	text, err := os.ReadFile(filepath.Join(s.dir, fetchedName))
	if err != nil || json.Unmarshal(text, &all) != nil {
		return map[string]validators{}
	}
	return all
}
