//go:build !unix

package secretfile

import (
	"errors"
	"runtime"
)

func lock(string) (func(), error) {
	return nil, errors.New("keeping secrets in files is not supported on " + runtime.GOOS)
}
