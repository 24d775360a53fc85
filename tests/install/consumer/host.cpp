// host PLUGIN MODEL: opens the plug-in, calls it and closes it, five times.
#include <dlfcn.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  for (int i = 0; i < 5; ++i) {
    void* const plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (plugin == nullptr) {
      std::cerr << dlerror() << '\n';
      return 1;
    }
    using FirstOutput = double(const char*);
    auto* const first_output = reinterpret_cast<FirstOutput*>(dlsym(plugin, "first_output"));
    std::cout << first_output(argv[2]) << '\n';
    if (dlclose(plugin) != 0) return 1;
    if (dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != nullptr) {
      std::cerr << "the plug-in is still there\n";
      return 1;
    }
  }
}
