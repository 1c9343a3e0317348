package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"l3af/internal/bpfsys"
	"l3af/internal/testenv"
	"l3af/internal/testenv/zoo"
)

// BTF of programs and maps as bpftool shows and dumps it.
func TestBTFAsBpftool(t *testing.T) {
	testenv.Clean(t)
	z := zoo.Open(t)
	p := z.Programs[zoo.LongName]
	var prog bpfsys.ProgInfo
	if err := bpfsys.Info(p, &prog); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for name, m := range z.Maps {
		var info bpfsys.MapInfo
		if err := bpfsys.Info(m, &info); err != nil {
			t.Fatal(err)
		}
		if info.BTFID == 0 {
			continue
		}
		kinds[name] = true
		for _, part := range []string{"key", "value", "kv", "all"} {
			if part == "key" && info.BTFKeyTypeID == 0 {
				continue // bpftool says that type 0 is unknown
			}
			args := []string{"btf", "dump", "map", "id", fmt.Sprint(info.ID), part}
			if got, want := string(l3afSays(t, args...)), string(bpftoolSays(t, args...)); got != want && info.BTFKeyTypeID != 0 {
				t.Errorf("%s %s: got\n%s\nwant\n%s", name, part, got, want)
			}
		}
	}
	if len(kinds) < 5 {
		t.Errorf("only %d maps have BTF", len(kinds))
	}
	args := []string{"btf", "dump", "prog", "id", fmt.Sprint(prog.ID)}
	if got, want := string(l3afSays(t, args...)), string(bpftoolSays(t, args...)); got != want {
		t.Errorf("program: got\n%s\nwant\n%s", got, want)
	}
	id := fmt.Sprint(prog.BTFID)
	ours, theirs := document(t, "l3af", l3afSays(t, "-j", "--bpftool-compat", "btf", "show", "id", id)), document(t, "bpftool", bpftoolSays(t, "-j", "btf", "show", "id", id))
	for _, v := range []any{ours, theirs} {
		one := v.(map[string]any)
		delete(one, "pids") // of which bpftool tells only where its iterator loads
		for _, ids := range []string{"prog_ids", "map_ids"} {
			slices.SortFunc(one[ids].([]any), func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	if fmt.Sprint(ours) != fmt.Sprint(theirs) {
		t.Errorf("show: got %v, want %v", ours, theirs)
	}
}
