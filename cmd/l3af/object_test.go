package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Lines as scripts for bpftool have them mean the same here.
func TestBpftoolLine(t *testing.T) {
	show, list := verb{name: "show", aliases: []string{"list"}}, func(names ...string) []verb {
		var vs []verb
		for _, n := range names {
			vs = append(vs, verb{name: n})
		}
		return vs
	}
	objects := []object{
		{name: "prog", verbs: append([]verb{show}, list("dump", "pin")...)},
		{name: "map", verbs: append([]verb{show}, list("dump", "lookup", "delete")...)},
		{name: "cgroup", verbs: []verb{show}},
	}
	root := &cobra.Command{}
	root.AddCommand(&cobra.Command{Use: "chain"}, &cobra.Command{Use: "prog"})
	for line, want := range map[string]string{
		"":                          "",
		"-j":                        "-j",
		"--version":                 "version",
		"-V":                        "version",
		"-jV":                       "version -j",
		"--pretty -V prog show":     "version -j",
		"prog show id 4 -V":         "version",
		"map -f dump id 4 -Vp":      "version -j",
		"chain show -V":             "chain show -V",
		"-j prog show":              "prog show -j",
		"-jp --bpffs map dump id 4": "map dump id 4 -jp --bpffs",
		"prog -f list":              "prog -f list",
		"p s id 4":                  "prog show id 4",
		"m d name x":                "map dump name x",
		"m l name x":                "map show name x", // list comes before lookup
		"m lo name x":               "map lookup name x",
		"m de name x":               "map delete name x",
		"map -j d name x":           "map -j dump name x",
		"prog li":                   "prog show",
		"c":                         "cgroup",
		"chain show":                "chain show",
		"-o json prog show":         "-o json prog show",
		"prog show -j":              "prog show -j",
		"nonsense show":             "nonsense show",
		"-x prog show":              "-x prog show",
		"prog help":                 "prog help",
		// A negative number is a value, and options still stand anywhere.
		"-p m d name x key -7 -j": "map dump name x key -j -p -- -7",
		"m d name x -f -.5 -1":    "map dump name x -f -- -.5 -1",
	} {
		if got := strings.Join(bpftoolLine(root, objects, strings.Fields(line)), " "); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// A long list is the same JSON as a short one, and what cannot be encoded an error.
func TestLongLists(t *testing.T) {
	type thing struct {
		Name any `json:"name"`
	}
	var list []thing
	for i := range 301 {
		list = append(list, thing{fmt.Sprintf("<%d>,\n", i)})
	}
	for _, n := range []int{2, 101, 300, 301} {
		var got, want bytes.Buffer
		if err := errors.Join(printList(&got, list[:n]), printJSONAs(&want, list[:n], false)); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("%d: %v, got\n%s\nwant\n%s", n, err, got.Bytes(), want.Bytes())
		}
	}
	for _, at := range []int{0, 150, 300} {
		bad := slices.Clone(list)
		bad[at].Name = func() {}
		var got bytes.Buffer
		if err := printList(&got, bad); err == nil || got.Len() > 0 {
			t.Errorf("%d: %v, printed %s", at, err, got.Bytes())
		}
	}
}

// Whatever happens, JSON is one document, and the exit code tells success.
func TestObjectAnswers(t *testing.T) {
	type thing struct {
		ID int `json:"id"`
	}
	things := func(n int) []thing { return []thing{{1}, {2}, {3}}[:n] }
	o := object{name: "thing", verbs: []verb{{name: "show", run: func(c *call) error {
		n, err := c.number("count", 32)
		if err != nil {
			return err
		}
		if n == 9 {
			return errors.New("get thing 9:\n\"gone\"")
		}
		return answerList(c, things(int(n)), true, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%d things\n", n)
			return err
		})
	}}, {name: "do", run: func(c *call) error { return c.done() }}}}
	for _, c := range []struct {
		line string
		out  string
		err  error
	}{
		{"show 2", "2 things\n", nil},
		{"show 2 -j", "[{\"id\":1},{\"id\":2}]\n", nil},
		{"show -j 0", "[]\n", nil},
		{"-j show 1", "[{\"id\":1}]\n", nil},
		{"show 1 -j --bpftool-compat", "{\"id\":1}\n", nil},
		{"show 2 -j --bpftool-compat", "[{\"id\":1},{\"id\":2}]\n", nil},
		{"show 1 -p", "[\n  {\n    \"id\": 1\n  }\n]\n", nil},
		{"show 9 -j", "{\"error\":\"get thing 9:\\n\\\"gone\\\"\"}\n", &errTold{}},
		{"show x -j", "{\"error\":\"count \\\"x\\\": must be a number below 2^32\"}\n", &errTold{}},
		{"show 9", "", &failure{}},
		{"show", "", &usageError{}},
		{"do", "", nil},
		{"do -j", "null\n", nil},
		{"undo -j", "{\"error\":\"unknown command \\\"thing undo\\\"\"}\n", &errTold{}},
	} {
		var out bytes.Buffer
		a := &app{out: &out, err: os.Stderr}
		cmd := newObject(a, o)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(strings.Fields(c.line))
		err := cmd.Execute()
		if out.String() != c.out || (err == nil) != (c.err == nil) || err != nil && !slices.Contains([]string{fmt.Sprintf("%T", err), "*main.failure"}, fmt.Sprintf("%T", c.err)) {
			t.Errorf("%q: got %q, %T, want %q, %T", c.line, out.String(), err, c.out, c.err)
		}
	}
}
