package inspect

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"l3af/internal/testenv"
)

// What a bpffs is mounted to allow is told; one that allows nothing is not there.
func TestTokens(t *testing.T) {
	testenv.Root(t)
	dir, plain := t.TempDir(), testenv.Bpffs(t)
	err := unix.Mount("bpf", dir, "bpf", 0, "delegate_cmds=map_create:prog_load,delegate_maps=any")
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel has no tokens")
	} else if err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	list, err := Tokens()
	if err != nil {
		t.Fatal(err)
	}
	list = slices.DeleteFunc(list, func(o Token) bool { return o.Info != dir && o.Info != plain })
	want := []Token{{Info: dir, Cmds: []string{"map_create", "prog_load"}, Maps: []string{"any"}, Progs: []string{}, Attachs: []string{}}}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("got %+v, want %+v", list, want)
	}
}

// Options are read as they stand, whatever they are.
func FuzzParseToken(f *testing.F) {
	f.Add("rw,relatime,delegate_cmds=map_create:prog_load,delegate_maps=any")
	f.Add("delegate_progs=,delegate_attachs=:")
	f.Add("")
	f.Fuzz(func(t *testing.T, options string) {
		o, ok := parseToken(options)
		all := slices.Concat(o.Cmds, o.Maps, o.Progs, o.Attachs)
		if ok != (len(all) > 0) || slices.ContainsFunc(all, func(s string) bool { return strings.ContainsAny(s, ",:") || !strings.Contains(options, s) }) {
			t.Errorf("%q: %t, %q", options, ok, all)
		}
	})
}
