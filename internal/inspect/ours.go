package inspect

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf/btf"

	"l3af/internal/bpfsys"
	"l3af/internal/chain"
	"l3af/internal/kernel"
)

// Chain says of an object what of ours it belongs to.
type Chain struct {
	ID       string   `json:"id,omitempty"`
	At       []string `json:"at,omitempty"`       // the hooks or probes: xdp/eth0, tc-ingress/blue:eth0, probe/exec
	Programs []Member `json:"programs,omitempty"` // in the order in which they run
	Program  string   `json:"program,omitempty"`  // of a map: whose it is
	Instance string   `json:"instance,omitempty"` // of a map: the instance that shares it
	Map      string   `json:"map,omitempty"`      // its whole name in the object
	Revision int      `json:"revision,omitempty"` // of the state, if the daemon says so
}

// Member is a program of a chain.
type Member struct {
	Name    string `json:"name"`
	Package string `json:"package,omitempty"` // if the daemon says so
}

// Ours knows of all objects of ours what they belong to. It is read from what
// is pinned and how that is named: the daemon is not asked.
type Ours struct {
	programs map[uint32][]string // where links run them
	links    map[uint32]kernel.Place
	maps     map[uint32]kernel.Place
	at       map[string][]string // where chains run
	members  map[string][]Member // of chains
}

// ReadOurs finds the directories of our pins in every bpffs that is mounted and
// reads them; without any it is quick.
func ReadOurs() (*Ours, error) {
	o := &Ours{map[uint32][]string{}, map[uint32]kernel.Place{}, map[uint32]kernel.Place{}, map[string][]string{}, map[string][]Member{}}
	dirs, err := Mounts("bpf")
	if err != nil {
		return nil, fmt.Errorf("find chains: %w", err)
	}
	for _, dir := range dirs {
		for _, root := range roots(dir) {
			_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
				if err != nil || !e.Type().IsRegular() {
					return nil
				}
				rel, err := filepath.Rel(root, path)
				if place, ours := kernel.PlaceOf(rel); err == nil && ours {
					o.add(path, place)
				}
				return nil
			})
		}
	}
	return o, nil
}

// roots are the directories of a bpffs that may be the daemon's: it, and those in it.
func roots(bpffs string) []string {
	dirs := []string{bpffs}
	entries, _ := os.ReadDir(bpffs)
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(bpffs, e.Name()))
		}
	}
	return slices.DeleteFunc(dirs, func(dir string) bool {
		return !slices.ContainsFunc([]string{"hooks", "probes", "instances"}, func(sub string) bool {
			info, err := os.Stat(filepath.Join(dir, sub))
			return err == nil && info.IsDir()
		})
	})
}

func (o *Ours) add(path string, place kernel.Place) {
	open, kind, err := bpfsys.ByPath(path, 0)
	if err != nil {
		return // gone
	}
	defer open.Close()
	switch kind {
	case bpfsys.Link:
		var info bpfsys.LinkInfo
		if bpfsys.Info(open, &info) != nil {
			return
		}
		o.links[info.ID] = place
		at := place.Target.String()
		o.programs[info.ProgID] = append(o.programs[info.ProgID], at)
		if id, err := chainOf(info.ProgID); err == nil && id != "" {
			o.at[id] = append(o.at[id], at)
		}
	case bpfsys.Map:
		var info bpfsys.MapInfo
		if bpfsys.Info(open, &info) != nil {
			return
		}
		o.maps[info.ID] = place
		if place.Map == chain.CountersName && place.Chain != "" {
			o.members[place.Chain] = membersOf(&info)
		}
	}
}

// chainOf is the chain's ID in the name of a program, "" where that is not ours.
func chainOf(id uint32) (string, error) {
	o, err := bpfsys.ByID(bpfsys.Prog, id, 0)
	if err != nil {
		return "", err
	}
	defer o.Close()
	var info bpfsys.ProgInfo
	if err := bpfsys.Info(o, &info); err != nil {
		return "", err
	}
	return chainID(bpfsys.Text(info.Name[:])), nil
}

func chainID(name string) string {
	id, ours := strings.CutPrefix(name, chain.NamePrefix)
	id, _, _ = strings.Cut(id, "__") // whole names have the members behind
	if !ours {
		return ""
	}
	return id
}

// membersOf reads the programs of a chain from the BTF of what counts them.
func membersOf(info *bpfsys.MapInfo) []Member {
	h, err := btf.NewHandleFromID(btf.ID(info.BTFID))
	if err != nil {
		return nil
	}
	defer h.Close()
	spec, err := h.Spec(nil)
	if err != nil {
		return nil
	}
	var t *btf.Struct
	if spec.TypeByName(chain.CountersType, &t) != nil {
		return nil
	}
	counts, err := chain.ReadCounts(t, nil)
	if err != nil {
		return nil
	}
	var list []Member
	for _, c := range counts {
		list = append(list, Member{Name: c.Name})
	}
	return list
}

// program says what a program is, nil where it is not ours.
func (o *Ours) program(p *Program) *Chain {
	id := chainID(p.Name)
	if o == nil || id == "" {
		return nil
	}
	c := &Chain{ID: id, At: o.programs[p.ID], Programs: o.members[id]}
	if c.At == nil {
		c.At = o.at[id] // a later segment
	}
	if c.At == nil && c.Programs == nil {
		return nil // no more than a name
	}
	return c
}

func (o *Ours) link(l *Link) *Chain {
	if o == nil {
		return nil
	}
	place, ok := o.links[l.ID]
	if !ok {
		return nil
	}
	id, _ := chainOf(l.ProgID)
	return &Chain{ID: id, At: []string{place.Target.String()}, Programs: o.members[id]}
}

func (o *Ours) ourMap(m *Map) *Chain {
	if o == nil {
		return nil
	}
	place, ok := o.maps[m.ID]
	if !ok {
		return nil
	}
	c := &Chain{ID: place.Chain, Program: place.Program, Instance: place.Instance, Map: place.Map}
	if place.Instance == "" {
		c.At = []string{place.Target.String()}
	}
	return c
}
