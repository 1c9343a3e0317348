// Package inspect reads what runs in the kernel, ours or anyone's: programs,
// maps and links, who holds them, and what they are attached to. Its words and
// JSON are those of bpftool, whose place it takes.
//
// Everything may go at any moment. What went between being listed and being
// looked at is left out, as if it had gone before.
package inspect

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

// Selector says which objects are meant. The zero value means all.
type Selector struct {
	By   By
	Text string // the tag in hex digits, the name, or the path of a pin
	ID   uint32
}

// By is what objects are selected by.
type By string

// What they can be selected by. Tags are of programs; links have no names.
const (
	All  By = ""
	ID   By = "id"
	Tag  By = "tag"
	Name By = "name"
	Pin  By = "pinned"
)

func (s Selector) String() string {
	switch s.By {
	case All:
		return "all"
	case ID:
		return "id " + strconv.FormatUint(uint64(s.ID), 10)
	}
	return string(s.By) + " " + s.Text
}

// room is how many objects a list has room for from the start. What of it is not
// used costs no memory, and a list that grows is copied time and again.
func (s Selector) room() int {
	if s.By == All {
		return 1024
	}
	return 1
}

// Options say what else to find out, which takes longer.
type Options struct {
	Pins    bool     // where objects are pinned
	Holders *Holders // nil, or what is to tell who holds them; it is read
	Locate  bool     // of links: in which network namespaces their interfaces are
	Ours    *Ours    // what of ours they are, when it was asked
}

func (o Options) pins() (Pins, error) {
	if !o.Pins {
		return nil, nil
	}
	return ReadPins()
}

// OpenPrograms opens the programs that a selector means, in the order of their
// ids. The caller closes them. Nothing found is [fs.ErrNotExist] for an id or
// a pin, and no error otherwise.
func OpenPrograms(s Selector) ([]*ebpf.Program, error) {
	var list []*ebpf.Program
	err := programs(s, func(o *bpfsys.Open, _ *bpfsys.ProgInfo, _ []uint32) error {
		p, err := ebpf.NewProgramFromFD(o.Take())
		if err == nil {
			list = append(list, p)
		}
		return err
	})
	return kept(list, err)
}

// OpenMaps is [OpenPrograms] for maps, to be read and written.
//
// Where there is a PROG_ARRAY among them it takes [settle] longer.
func OpenMaps(s Selector) ([]*ebpf.Map, error) {
	var list []*ebpf.Map
	err := maps(s, 0, func(o *bpfsys.Open, _ *bpfsys.MapInfo) error {
		m, err := ebpf.NewMapFromFD(o.Take())
		if err == nil {
			list = append(list, m)
		}
		return err
	})
	return kept(list, err)
}

// OpenLinks is [OpenPrograms] for links.
func OpenLinks(s Selector) ([]link.Link, error) {
	var list []link.Link
	err := links(s, func(o *bpfsys.Open, _ *bpfsys.LinkInfo) error {
		l, err := link.NewFromFD(o.Take())
		if err == nil {
			list = append(list, l)
		}
		return err
	})
	return kept(list, err)
}

// kept closes what was opened before an error.
func kept[T interface{ Close() error }](list []T, err error) ([]T, error) {
	if err == nil {
		return list, nil
	}
	for _, o := range list {
		o.Close()
	}
	return nil, err
}

// each opens the objects of a kind that a selector can mean by id or pin, all
// others too where it means them by what the kernel says of them.
func each(k bpfsys.Kind, s Selector, flags uint32, f func(o *bpfsys.Open, id uint32) error) error {
	visit := func(o *bpfsys.Open, id uint32) error {
		defer o.Close()
		return f(o, id)
	}
	switch s.By {
	case ID:
		o, err := bpfsys.ByID(k, s.ID, flags)
		if err != nil {
			return err
		}
		return visit(o, s.ID)
	case Pin:
		o, is, err := bpfsys.ByPath(s.Text, flags)
		if errors.Is(err, unix.EINVAL) { // only maps take flags
			o, is, err = bpfsys.ByPath(s.Text, 0)
		}
		if err != nil {
			return err
		}
		if is != k {
			o.Close()
			return fmt.Errorf("%s is a %s, not a %s", s.Text, is, k)
		}
		return visit(o, 0)
	}
	// Objects made in a row have ids in a row: the next need not be asked for.
	for id, row := uint32(0), false; ; {
		if row {
			o, err := bpfsys.ByID(k, id+1, flags)
			if row = err == nil; row {
				id++
				if err := visit(o, id); err != nil {
					return err
				}
				continue
			}
		}
		next, ok, err := bpfsys.NextID(k, id)
		if !ok || err != nil {
			return err
		}
		row, id = next == id+1, next
		o, err := bpfsys.ByID(k, id, flags)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EAGAIN): // gone, or a link not yet made
			continue
		case err != nil:
			return err
		}
		if err := visit(o, id); err != nil {
			return err
		}
	}
}

// programs calls f with each program that is meant and the ids of its maps.
// Both info and maps are only good during the call.
func programs(s Selector, f func(o *bpfsys.Open, info *bpfsys.ProgInfo, maps []uint32) error) error {
	maps := make([]uint32, 64) // MAX_USED_MAPS
	var tag [unix.BPF_TAG_SIZE]byte
	if s.By == Tag {
		b, err := hex.DecodeString(s.Text)
		if err != nil || len(b) != len(tag) {
			return fmt.Errorf("tag %q: must be %d hex digits", s.Text, 2*len(tag))
		}
		copy(tag[:], b)
	}
	var info bpfsys.ProgInfo
	return each(bpfsys.Prog, s, 0, func(o *bpfsys.Open, id uint32) error {
		info = bpfsys.ProgInfo{NrMapIDs: uint32(len(maps)), MapIDs: bpfsys.PointerTo(maps)}
		// ENODEV: the device it was bound to is gone, and the kernel says no more.
		if err := bpfsys.Info(o, &info); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("program: %w", err)
		} else if err != nil {
			info.ID, info.NrMapIDs = id, 0
		}
		switch {
		case s.By == Tag && info.Tag != tag, s.By == Name && !programNamed(o, &info, s.Text):
			return nil
		}
		return f(o, &info, maps[:min(int(info.NrMapIDs), len(maps))])
	})
}

// programNamed compares the kernel's name of a program, of at most 15 bytes,
// and its whole one.
func programNamed(o *bpfsys.Open, info *bpfsys.ProgInfo, name string) bool {
	short := bpfsys.Text(info.Name[:])
	return short == name || strings.HasPrefix(name, short) && fullName(o, info) == name
}

func maps(s Selector, flags uint32, f func(*bpfsys.Open, *bpfsys.MapInfo) error) error {
	var h hold
	defer h.release()
	return each(bpfsys.Map, s, flags, func(o *bpfsys.Open, _ uint32) error {
		var info bpfsys.MapInfo
		if err := bpfsys.Info(o, &info); err != nil {
			return fmt.Errorf("map: %w", err)
		}
		defer h.keep(o, &info)
		if s.By == Name && bpfsys.Text(info.Name[:]) != s.Text {
			return nil
		}
		return f(o, &info)
	})
}

// settle is how long a PROG_ARRAY stays open at least. When the last descriptor
// of one closes, Linux queues work that empties it, and takes a reference for
// that, even if the work is queued already: the reference then is never given
// back and the map stays for ever (prog_array_map_clear). That happens to one
// that is opened by id after its owner has gone and closed before the work has
// run. Held for so long, the work has run.
const settle = 20 * time.Millisecond

// hold keeps every PROG_ARRAY open that was opened by id.
type hold struct {
	arrays []*bpfsys.Open
	last   time.Time
}

// keep takes a map over if it is a PROG_ARRAY.
func (h *hold) keep(o *bpfsys.Open, info *bpfsys.MapInfo) {
	if ebpf.MapType(info.Type) == ebpf.ProgramArray {
		held := *o
		o.Take()
		h.arrays, h.last = append(h.arrays, &held), time.Now()
	}
}

// release closes what was kept when it may be.
func (h *hold) release() {
	if len(h.arrays) > 0 {
		time.Sleep(settle - time.Since(h.last))
	}
	for _, o := range h.arrays {
		o.Close()
	}
}

func links(s Selector, f func(*bpfsys.Open, *bpfsys.LinkInfo) error) error {
	return each(bpfsys.Link, s, 0, func(o *bpfsys.Open, _ uint32) error {
		var info bpfsys.LinkInfo
		if err := bpfsys.Info(o, &info); err != nil {
			return fmt.Errorf("link: %w", err)
		}
		return f(o, &info)
	})
}
