// Command weir-images writes the container images of Weir as docker-archive tars: a
// tool of the build (`make images`), not a part of the product.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/weirmesh/weir/internal/image"
)

const usage = `weir-images writes OUT/NAME-ARCH.tar for every image of Weir, from binaries that stand in BIN.

  weir-images --bin bin/linux-amd64 --arch amd64 --hub weir --tag 0.1.0 --out dist/images [MANIFESTS ...]

MANIFESTS are files and folders of Kubernetes objects, such as Istio's samples: an image named there
that one of our sample programs stands for is written under that name, too.
`

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "weir-images:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	bin := flag.String("bin", "", "folder of the binaries")
	out := flag.String("out", "dist/images", "folder to write to")
	epoch := flag.Int64("epoch", 0, "when the source was made, seconds since 1970: equal sources give equal images")
	flag.StringVar(&o.Arch, "arch", "amd64", "architecture of the binaries, in GOARCH's words")
	flag.StringVar(&o.Hub, "hub", "weir", "what stands before the images' names")
	flag.StringVar(&o.Tag, "tag", "", "tag of the images")
	flag.StringVar(&o.Version, "version", "", "version of Weir")
	flag.StringVar(&o.Revision, "revision", "", "commit of the source")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage, "\nFlags:\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.Created = time.Unix(*epoch, 0)
	var err error
	if o.References, err = references(flag.Args()); err != nil {
		return err
	}
	archives, err := o.archives(func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(*bin, name)) })
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	for _, a := range archives {
		if err := write(filepath.Join(*out, a.name+"-"+o.Arch+".tar"), a.images); err != nil {
			return err
		}
	}
	return nil
}

// write replaces the file at once: nobody loads half an image.
func write(name string, images []image.Image) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	if err = image.Write(w, images...); err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Println(name)
	for _, i := range images {
		fmt.Println("  " + strings.Join(i.Tags, "  "))
	}
	return os.Rename(f.Name(), name)
}

var imageLine = regexp.MustCompile(`(?m)^\s*(?:- )?image:\s*["']?([^\s"'#]+)`)

// references are the images that manifests name.
func references(paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		err := filepath.WalkDir(p, func(file string, d os.DirEntry, err error) error {
			if ext := filepath.Ext(file); err != nil || d.IsDir() || ext != ".yaml" && ext != ".yml" {
				return err
			}
			data, err := os.ReadFile(file) //nolint:gosec // the builder's own folders
			for _, m := range imageLine.FindAllStringSubmatch(string(data), -1) {
				out = append(out, m[1])
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
