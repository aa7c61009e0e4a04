/* An empty stand-in for libtorch at link time: the extension records that it needs libtorch.so, which `import torch`
   has loaded by then, without torch's libraries being present where the package is built. */
int tglo_stub_torch;
