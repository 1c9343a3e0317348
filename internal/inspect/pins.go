package inspect

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"l3af/internal/bpfsys"
)

// Pins are the paths at which objects are pinned, by kind and id.
type Pins map[bpfsys.Kind]map[uint32][]string

// ReadPins looks at every bpffs that is mounted, and at every pin in it.
func ReadPins() (Pins, error) {
	dirs, err := Mounts("bpf")
	if err != nil {
		return nil, fmt.Errorf("find pins: %w", err)
	}
	p := Pins{bpfsys.Prog: {}, bpfsys.Map: {}, bpfsys.Link: {}}
	for _, dir := range dirs {
		// What goes meanwhile, or is not ours to look at, has no pins.
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				p.add(path)
			}
			return nil
		})
	}
	for _, paths := range p {
		for id := range paths {
			slices.Sort(paths[id])
			paths[id] = slices.Compact(paths[id])
		}
	}
	return p, nil
}

func (p Pins) add(path string) {
	o, k, err := bpfsys.ByPath(path, 0)
	if err != nil {
		return // gone, or nothing that has an id
	}
	defer o.Close()
	var id uint32
	switch k {
	case bpfsys.Prog:
		var info bpfsys.ProgInfo
		err, id = bpfsys.Info(o, &info), info.ID
	case bpfsys.Map:
		var info bpfsys.MapInfo
		err, id = bpfsys.Info(o, &info), info.ID
	case bpfsys.Link:
		var info bpfsys.LinkInfo
		err, id = bpfsys.Info(o, &info), info.ID
	}
	if paths := p[k]; err == nil && paths != nil {
		paths[id] = append(paths[id], path)
	}
}

// of is the pins of an object, as bpftool has them: without -f nil, and empty
// where others are pinned.
func (p Pins) of(k bpfsys.Kind, id uint32) []string {
	if len(p[k]) == 0 {
		return nil
	}
	if paths := p[k][id]; paths != nil {
		return paths
	}
	return []string{}
}
