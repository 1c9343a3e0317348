package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af/internal/chain"
	"l3af/internal/host"
)

// changedError says that a pinned map is not what the chain wants in its place.
type changedError struct{ difference string }

func (e *changedError) Unwrap() error { return ebpf.ErrMapIncompatible }

func (e *changedError) Error() string {
	return fmt.Sprintf("the pinned map has another shape: %s (write onMapChange: reset to start it anew; to keep its contents, give the program another name)", e.difference)
}

// adopt opens the map pinned at path. It is a [*changedError] when type,
// sizes, flags, or the layout of key or value are not those of the spec;
// [fs.ErrNotExist] when nothing is there.
func adopt(path string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return nil, fmt.Errorf("open pin: %w", err)
	}
	difference := ""
	if err := spec.Compatible(m); err != nil {
		difference = strings.TrimSuffix(err.Error(), ": "+ebpf.ErrMapIncompatible.Error())
	} else if difference, err = otherLayout(m, spec); err != nil {
		m.Close()
		return nil, fmt.Errorf("read the pinned map's types: %w", err)
	}
	if difference != "" {
		m.Close()
		return nil, &changedError{difference}
	}
	return m, nil
}

// otherLayout tells how the types of the spec's keys and values lay out their
// bytes otherwise than those the map was made with; "" when they do not, or
// where either says no types.
func otherLayout(m *ebpf.Map, spec *ebpf.MapSpec) (string, error) {
	if spec.Key == nil && spec.Value == nil {
		return "", nil
	}
	keyID, valueID, err := typeIDs(m)
	if err != nil || keyID == 0 && valueID == 0 {
		return "", err
	}
	handle, err := m.Handle()
	if err != nil {
		return "", err
	}
	defer handle.Close()
	types, err := handle.Spec(nil)
	if err != nil {
		return "", err
	}
	for _, part := range []struct {
		what string
		id   btf.TypeID
		now  btf.Type
	}{{"key", keyID, spec.Key}, {"value", valueID, spec.Value}} {
		if part.id == 0 || part.now == nil {
			continue
		}
		was, err := types.TypeByID(part.id)
		if err != nil {
			return "", err
		}
		if d := chain.SameLayout(was, part.now); d != "" {
			return part.what + d, nil
		}
	}
	return "", nil
}

// typeIDs are the types of a map's keys and values in its BTF; 0: not known.
func typeIDs(m *ebpf.Map) (key, value btf.TypeID, err error) {
	const id, keyType, valueType = 64, 68, 72 // of btf in struct bpf_map_info
	info, err := objectInfo(m)
	if err != nil || binary.NativeEndian.Uint32(info[id:]) == 0 {
		return 0, 0, err
	}
	return btf.TypeID(binary.NativeEndian.Uint32(info[keyType:])), btf.TypeID(binary.NativeEndian.Uint32(info[valueType:])), nil
}

// A map that starts anew is pinned aside until the chain that uses it runs:
// under aside/ID in the target's directory, with the path it is to have below
// the root. What runs tells a later start which of two maps is the right one.

func (k *Kernel) asideDir(t host.Target) string { return filepath.Join(k.path(t), "aside") }

// asidePath is where the map that is to be pinned at path waits.
func (k *Kernel) asidePath(t host.Target, id, path string) string {
	return filepath.Join(k.asideDir(t), escape(id), strings.TrimPrefix(path, k.root+"/"))
}

// recoverMaps gives the maps that wait aside their places if their chain runs,
// and removes them if it does not.
func (k *Kernel) recoverMaps(t host.Target) error {
	ids, err := k.entries(k.asideDir(t))
	if err != nil || len(ids) == 0 {
		return err
	}
	running, err := k.runningID(t)
	if err != nil {
		return err
	}
	if running != "" {
		if err := k.takePlaces(t, running); err != nil {
			return err
		}
	}
	return removePins(k.asideDir(t))
}

// takePlaces gives the maps that wait for a chain their places.
func (k *Kernel) takePlaces(t host.Target, id string) error {
	dir := filepath.Join(k.asideDir(t), escape(id))
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		place := filepath.Join(k.root, strings.TrimPrefix(path, dir+"/"))
		if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
			return err
		}
		return os.Rename(path, place)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put maps in place: %w", err)
	}
	return removePins(k.asideDir(t))
}
