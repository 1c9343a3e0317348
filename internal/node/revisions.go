package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"l3af"
)

// keptRevisions is how many revisions are kept on disk.
const keptRevisions = 50

// revisions is the directory of applied states, one file each.
type revisions struct {
	dir  string
	disk disk
	log  *slog.Logger

	current *l3af.Revision // nil: none yet, or the latest is damaged
	latest  int            // number of the latest file, damaged or not
	last    int            // highest number ever seen: never used again
	damage  error          // why the latest cannot be read

	// packages is what is known of the kept revisions, which may be large.
	packages map[int]map[string]string
}

var (
	revisionFile = regexp.MustCompile(`^(\d{8,})\.json$`)
	asideFile    = regexp.MustCompile(`^(\d{8,})\.json\.damaged$`)
)

func revisionName(n int) string { return fmt.Sprintf("%08d.json", n) }

// openRevisions reads the latest revision. A damaged one is no error here:
// damage says what is wrong with it, and its file stays.
func openRevisions(dir string, d disk, log *slog.Logger) (*revisions, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := d.sweep(dir); err != nil {
		return nil, err
	}
	r := &revisions{dir: dir, disk: d, log: log, packages: map[int]map[string]string{}}
	numbers, aside, err := r.list()
	if err != nil {
		return nil, err
	}
	if len(aside) > 0 {
		r.last = aside[0]
	}
	if len(numbers) > 0 {
		r.latest = numbers[0]
		r.last = max(r.last, r.latest)
		if r.current, r.damage = r.read(r.latest); r.current != nil {
			r.packages[r.latest] = r.current.Packages
		}
	}
	return r, nil
}

// list gives the numbers of the revision files, and of those that were moved
// aside because they are damaged; newest first.
func (r *revisions) list() (numbers, aside []int, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if m := revisionFile.FindStringSubmatch(e.Name()); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil && n > 0 {
				numbers = append(numbers, n)
			}
		} else if m := asideFile.FindStringSubmatch(e.Name()); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil {
				aside = append(aside, n)
			}
		}
	}
	newestFirst := func(a, b int) int { return b - a }
	slices.SortFunc(numbers, newestFirst)
	slices.SortFunc(aside, newestFirst)
	return numbers, aside, nil
}

// read gives one revision. fs.ErrNotExist: there is none; any other error:
// its file is damaged.
func (r *revisions) read(number int) (*l3af.Revision, error) {
	path := filepath.Join(r.dir, revisionName(number))
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rev := new(l3af.Revision)
	if err := decode(data, rev); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	if rev.Number != number {
		return nil, fmt.Errorf("%s is damaged: it says it is revision %d", path, rev.Number)
	}
	if err := rev.State.Validate(); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return rev, nil
}

// decode reads one JSON value, strictly and with numbers as they are written.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more follows after its end")
	}
	return nil
}

// put makes rev the current revision, with the next number. A damaged file
// that it takes the place of is moved aside.
func (r *revisions) put(rev *l3af.Revision) error {
	rev.Number = r.last + 1
	data, err := json.MarshalIndent(rev, "", " ")
	if err != nil {
		return err
	}
	if err := r.disk.write(filepath.Join(r.dir, revisionName(rev.Number)), append(data, '\n')); err != nil {
		return fmt.Errorf("write revision %d: %w", rev.Number, err)
	}
	if r.damage != nil {
		path := filepath.Join(r.dir, revisionName(r.latest))
		aside := path + ".damaged"
		if err := r.disk.rename(path, aside); err != nil {
			r.log.Error("damaged revision stays in the way", "file", path, "error", err)
		} else {
			r.log.Warn("damaged revision moved aside", "file", aside, "was", r.damage)
		}
	}
	r.current, r.latest, r.last, r.damage = rev, rev.Number, rev.Number, nil
	r.packages[rev.Number] = rev.Packages
	return nil
}

// prune removes the revisions that are too old to be kept and returns the
// digests of the packages that the kept ones name.
func (r *revisions) prune() (digests []string, err error) {
	numbers, _, err := r.list()
	if err != nil {
		return nil, err
	}
	if len(numbers) > keptRevisions {
		for _, n := range numbers[keptRevisions:] {
			if err := r.disk.remove(filepath.Join(r.dir, revisionName(n))); err != nil {
				return nil, err
			}
			delete(r.packages, n)
		}
		numbers = numbers[:keptRevisions]
	}
	seen := map[string]bool{}
	for _, n := range numbers {
		if _, known := r.packages[n]; !known {
			rev, err := r.read(n)
			switch {
			case err == nil:
				r.packages[n] = rev.Packages
			case errors.As(err, new(*fs.PathError)):
				return nil, err // it may be whole
			default:
				r.log.Warn("revision cannot be read", "revision", n, "error", err)
				r.packages[n] = nil
			}
		}
		for _, d := range r.packages[n] {
			seen[d] = true
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// all reads the revisions one by one, newest first, without the damaged.
func (r *revisions) all() iter.Seq2[*l3af.Revision, error] {
	return func(yield func(*l3af.Revision, error) bool) {
		numbers, _, err := r.list()
		if err != nil {
			yield(nil, err)
			return
		}
		for _, n := range numbers[:min(len(numbers), keptRevisions)] {
			rev, err := r.read(n)
			if err == nil && !yield(rev, nil) {
				return
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // pruned meanwhile
				r.log.Warn("revision cannot be read", "revision", n, "error", err)
			}
		}
	}
}

// find reads a revision that somebody asks for.
func (r *revisions) find(number int) (*l3af.Revision, error) {
	rev, err := r.read(number)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("revision %d: %w", number, l3af.ErrNotFound)
	}
	return rev, err
}

// before gives the newest revision older than the latest that can be read.
func (r *revisions) before() (*l3af.Revision, error) {
	numbers, _, err := r.list()
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if n >= r.latest {
			continue
		}
		rev, err := r.read(n)
		if err == nil {
			return rev, nil
		}
		r.log.Warn("revision cannot be read", "revision", n, "error", err)
	}
	return nil, fmt.Errorf("no revision before %d: %w", r.latest, l3af.ErrNotFound)
}
