package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
)

// stdinName is how "-" is shown.
const stdinName = "(standard input)"

// filesFlag adds -f.
func filesFlag(cmd *cobra.Command, paths *[]string) {
	cmd.Flags().StringArrayVarP(paths, "filename", "f", nil, "`path` of a YAML file, of a folder of them, or - for standard input (repeatable)")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
}

// read reads configuration as the control plane does.
func (a *app) read(paths []string, namespace string) ([]config.Unit, error) {
	units, err := file.New(file.Options{Paths: paths, Namespace: namespace, Stdin: a.Stdin}).Read()
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	return units, nil
}

// bundle is several files joined into one stream of YAML documents.
type bundle struct {
	text  []byte
	parts []part
}

// part is a file in a bundle.
type part struct {
	name  string
	first int // line of the bundle that is the file's first
}

// bundle reads everything that paths name.
func (a *app) bundle(paths []string) (*bundle, error) {
	b := &bundle{}
	stdin := false
	var named []string
	for _, p := range paths {
		if p != "-" {
			named = append(named, p)
			continue
		}
		if stdin {
			return nil, usage("name each input once", "standard input (-) is given twice")
		}
		stdin = true
		data, err := io.ReadAll(a.Stdin)
		if err != nil {
			return nil, fmt.Errorf("reading standard input: %w", err)
		}
		b.add(stdinName, data)
	}
	units, err := a.read(named, "")
	if err != nil {
		return nil, err
	}
	for _, u := range units {
		data, err := os.ReadFile(u.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed just now
		}
		if err != nil {
			return nil, fmt.Errorf("reading configuration: %w", err)
		}
		b.add(u.Name, data)
	}
	if len(b.parts) == 0 {
		return nil, hinted("files are named *.yaml, *.yml or *.json", "there is no file in %s", joined(named))
	}
	return b, nil
}

func (b *bundle) add(name string, data []byte) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if len(b.parts) > 0 {
		if !bytes.HasSuffix(b.text, []byte("\n")) {
			b.text = append(b.text, '\n')
		}
		b.text = append(b.text, "---\n"...)
	}
	b.parts = append(b.parts, part{name, 1 + bytes.Count(b.text, []byte("\n"))})
	b.text = append(b.text, data...)
}

// place turns a line of the bundle into one of a file.
func (b *bundle) place(line int) (name string, at int) {
	i := sort.Search(len(b.parts), func(i int) bool { return b.parts[i].first > line }) - 1
	if i < 0 {
		return "", line
	}
	return b.parts[i].name, line - b.parts[i].first + 1
}

// relocate gives findings about the bundle the places in its files. Others name a file
// of their own: they are about what is in the mesh already.
func (b *bundle) relocate(fs []apiv1.Finding) {
	for i := range fs {
		if fs[i].File == apiv1.GivenFile {
			fs[i].File, fs[i].Line = b.place(fs[i].Line)
		}
	}
}
