package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"l3af/internal/host"
)

// The PROG_ARRAY of a chain with several segments is made and filled before the
// link is switched, and belongs to that one load of the chain: the switch is
// still one link update, and no packet goes from one chain to another. Its pin
// holds what is in it, which a PROG_ARRAY otherwise loses with its last
// descriptor. So the pin stays until no CPU runs the chain any more.

const segmentsDir = "segments"

// segmentsPath is where the segments of a chain are pinned: under its ID, or
// under that and a number while the same chain takes the place of itself.
func (k *Kernel) segmentsPath(t host.Target, id string, number int) string {
	if number > 0 {
		id += "-" + strconv.Itoa(number)
	}
	return filepath.Join(k.path(t), segmentsDir, escape(id))
}

// freeSegmentsPath is the first of them where nothing is.
func (k *Kernel) freeSegmentsPath(t host.Target, id string) (string, error) {
	for number := 0; ; number++ {
		path := k.segmentsPath(t, id, number)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return path, os.MkdirAll(filepath.Dir(path), 0o700)
		} else if err != nil {
			return "", err
		}
	}
}

// pinSegments pins what joins the segments of a chain, if it has several, and
// gives the pin's path.
func (k *Kernel) pinSegments(t host.Target, p *programs) (string, error) {
	if p.segments == nil {
		return "", nil
	}
	path, err := k.freeSegmentsPath(t, p.chain.ID)
	if err == nil {
		err = p.segments.Pin(path)
	}
	if err != nil {
		return "", fmt.Errorf("pin segments: %w", err)
	}
	return path, nil
}

// tidySegments removes the segments of chains that run no more, once no packet
// is in them, and gives those that run their chain's name.
func (k *Kernel) tidySegments(t host.Target) error {
	dir := filepath.Join(k.path(t), segmentsDir)
	names, err := k.entries(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	used, err := k.usedMaps()
	if err != nil {
		return fmt.Errorf("look for segments in use: %w", err)
	}
	var unused, kept []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		id, err := mapID(path)
		switch {
		case err == nil && used[id]:
			kept = append(kept, path)
		case err == nil, errors.Is(err, fs.ErrNotExist):
			unused = append(unused, path)
		case notOurs(err): // no map: not ours
			k.log.Debug("not a map", "path", path, "error", err)
		default:
			return fmt.Errorf("look for segments in use: %w", err)
		}
	}
	if len(unused) > 0 {
		k.quiesce()
	}
	for _, path := range unused {
		if err := removePins(path); err != nil {
			return err
		}
	}
	for _, path := range kept {
		id, _ := unescape(filepath.Base(path))
		id, _, _ = strings.Cut(id, "-")
		first := k.segmentsPath(t, id, 0)
		if _, err := os.Lstat(first); !errors.Is(err, fs.ErrNotExist) {
			continue // it is there already, or another still is
		}
		if err := os.Rename(path, first); err != nil {
			return err
		}
	}
	if len(kept) == 0 {
		_ = os.Remove(dir) // fails when not empty
	}
	return nil
}

// usedMaps are the maps of the programs that the links of all targets hold: an
// interrupted move leaves pins with one target and the link with another.
func (k *Kernel) usedMaps() (map[ebpf.MapID]bool, error) {
	targets, err := k.targets()
	if err != nil {
		return nil, err
	}
	all := map[ebpf.MapID]bool{}
	for _, t := range targets {
		for _, name := range []string{linkPin, newLinkPin} {
			used, err := linkMaps(filepath.Join(k.path(t), name))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t, err)
			}
			maps.Copy(all, used)
		}
	}
	return all, nil
}

// linkMaps are the maps of the program that a pinned link holds; none where
// there is no link, or no program any more as its interface is gone.
func linkMaps(path string) (map[ebpf.MapID]bool, error) {
	l, info, err := openLink(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || notOurs(err) {
			err = nil
		}
		return nil, err
	}
	defer l.Close()
	p, err := ebpf.NewProgramFromID(info.Program)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer p.Close()
	of, err := p.Info()
	if err != nil {
		return nil, err
	}
	used := map[ebpf.MapID]bool{}
	ids, _ := of.MapIDs()
	for _, id := range ids {
		used[id] = true
	}
	return used, nil
}

func mapID(path string) (ebpf.MapID, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, _ := info.ID()
	return id, nil
}

// moveSegments gives the segments of the link that is pinned at one target to
// another, which gets the link then.
func (k *Kernel) moveSegments(from, to host.Target) error {
	dir := filepath.Join(k.path(from), segmentsDir)
	names, err := k.entries(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	used, err := linkMaps(k.linkPath(from))
	if err != nil {
		return fmt.Errorf("move segments: %w", err)
	}
	for _, name := range names {
		id, ok := unescape(name)
		if !ok {
			continue
		}
		if m, err := mapID(filepath.Join(dir, name)); err != nil || !used[m] {
			continue
		}
		path, err := k.freeSegmentsPath(to, id)
		if err == nil {
			err = os.Rename(filepath.Join(dir, name), path)
		}
		if err != nil {
			return fmt.Errorf("move segments: %w", err)
		}
	}
	return nil
}

// countSegments is how many segments the chain that runs at a target has.
func (k *Kernel) countSegments(t host.Target, id string) (int, error) {
	m, err := ebpf.LoadPinnedMap(k.segmentsPath(t, id, 0), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return 1, nil
	} else if err != nil {
		return 0, err
	}
	defer m.Close()
	return 1 + int(m.MaxEntries()), nil
}
