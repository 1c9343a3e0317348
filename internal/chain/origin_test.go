package chain

import (
	"slices"
	"testing"

	"l3af"
)

// What the kernel keeps of a chain says whose its code is: the lines in the
// entry function, and the names of the others.
func TestOrigins(t *testing.T) {
	spec := object(t, "corpus/subprograms")
	members := []Member{
		{Name: "a", Spec: object(t, "xdp"), Entry: "counts"},
		{Name: "a-b.c", Spec: spec, Entry: "subprograms"},
		{Name: "a-b", Spec: object(t, "corpus/tailcalls"), Entry: "tailcalls"}, // called
		{Name: "last", Spec: withoutLines(spec), Entry: "subprograms_too"},
	}
	c, err := Compose(l3af.XDP, members)
	if err != nil {
		t.Fatal(err)
	}
	var comments []Comment
	offset := 0
	ins := c.Program.Instructions
	for i := range ins {
		if i > 0 && ins[i].Symbol() != "" {
			break
		}
		if line := ins[i].Source(); line != nil {
			comments = append(comments, Comment{offset, line.String()})
		}
		offset += int(ins[i].Width())
	}
	names := []string{"a", "a-b.c", "a-b", "last"}
	if got := Members(comments); !slices.Equal(got, names) {
		t.Errorf("members: %v", got)
	}
	if !comments[0].Ours() {
		t.Errorf("the chain begins with %q", comments[0].Text)
	}
	lines := map[string]string{}
	for _, c := range comments {
		if name, line, ok := c.Begins(); ok {
			lines[name] = line
			if c.Ours() {
				t.Errorf("%q joins programs", c.Text)
			}
		}
	}
	if lines["a-b.c"] == "" || lines["last"] != "" || len(lines) != 3 {
		t.Errorf("bodies begin with the lines %q", lines)
	}
	for function, want := range map[string]string{
		"a__helper": "a", "a_x2db_x2ec__helper": "a-b.c", "a_x2db__tailcalls": "a-b", "l3af_count": "", "c.Program": "", "last__f_2": "last",
	} {
		if got := MemberOf(function, names); got != want {
			t.Errorf("function %s is of %q, want %q", function, got, want)
		}
	}
}
